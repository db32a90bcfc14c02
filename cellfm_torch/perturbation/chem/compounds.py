"""Compounds as numbers: fingerprints of their SMILES, or only which of the known compounds they are.

Shapes: K known compounds, F numbers of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cellfm_torch.errors import UserError, examples, nearest, shortened

RADIUS, BITS = 2, 1024
"""Of Morgan fingerprints."""


@dataclass(frozen=True)
class Compounds:
    """Compounds that cells were treated with.

    Attributes
    ----------
    features : dict of str to (F,) float32
        By name: a Morgan fingerprint, or a one in the compound's own place.
    smiles : dict of str to str
        Canonical, by name; empty where compounds are told apart by name only.
    """

    features: dict[str, NDArray[np.float32]]
    smiles: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str], smiles: Mapping[str, str] | None, *, source: str) -> Compounds:
        """Return compounds by SMILES, or by name where there are none.

        Parameters
        ----------
        names
            Of the compounds.
        smiles
            By name; None: compounds are told apart by name.
        source
            Where the SMILES come from, for messages.

        Raises
        ------
        UserError
            If a compound has none, one does not parse, or RDKit is missing.
        """
        names = sorted(set(names))
        if smiles is None:
            return cls(dict(zip(names, np.eye(len(names), dtype=np.float32), strict=True)))
        if without := [name for name in names if not smiles.get(name)]:
            raise UserError(
                f"{source}: there is no SMILES of {examples(without)}: add it, or tell compounds apart by name "
                "(smiles=none)"
            )
        found = {name: fingerprint(smiles[name], name=name, source=source) for name in names}
        return cls({n: bits for n, (bits, _) in found.items()}, {n: text for n, (_, text) in found.items()})

    @property
    def names(self) -> list[str]:
        """Known compounds."""
        return list(self.features)

    @property
    def by_structure(self) -> bool:
        """Whether compounds that were never seen can be told."""
        return bool(self.smiles)

    def identity(self, name: str) -> str:
        """Return what tells a compound from others: two names of one molecule have the same."""
        return self.smiles.get(name, name)

    def feature(self, name: str, smiles: str | None = None) -> NDArray[np.float32]:
        """Return the numbers of a compound, (F,).

        Raises
        ------
        UserError
            If it is unknown and there is no SMILES, or none is of use.
        """
        if smiles is not None:
            if not self.by_structure:
                raise UserError(
                    f"smiles={shortened(smiles)}: the compounds were told apart by name in training, which says "
                    "nothing of others: train with SMILES"
                )
            return fingerprint(smiles, name=name, source="smiles")[0]
        if name in self.features:
            return self.features[name]
        what = "give its SMILES" if self.by_structure else "only compounds of the training cells can be predicted"
        raise UserError(f"drug={name}: is no compound of the training cells{nearest(name, self.names)} Else {what}")


def fingerprint(smiles: str, *, name: str, source: str) -> tuple[NDArray[np.float32], str]:
    """Return the Morgan fingerprint of a molecule, (F,), and its canonical SMILES.

    Raises
    ------
    UserError
        If the SMILES does not parse, or RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdFingerprintGenerator
    except ImportError:
        raise UserError(
            "reading SMILES takes RDKit: pip install 'cellfm_torch[perturb]', or tell compounds apart by name "
            "(smiles=none)"
        ) from None
    with rdBase.BlockLogs():  # what is wrong is said once, below
        molecule = Chem.MolFromSmiles(smiles.strip())
    if molecule is None or molecule.GetNumAtoms() == 0:
        raise UserError(f"{source}: the SMILES of {name} does not parse ({shortened(smiles, longest=80)}): correct it")
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    return generator.GetFingerprintAsNumPy(molecule).astype(np.float32), Chem.MolToSmiles(molecule)


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Tanimoto similarities of binary features, (K, F) and (L, F) -> (K, L): shared bits over bits of either."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    both = x @ y.T
    return both / np.maximum(x.sum(1)[:, None] + y.sum(1)[None] - both, 1e-12)
