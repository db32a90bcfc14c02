"""convert/ under the name it has once installed: a wheel packs that folder in the place of this one."""

from cellfm_torch.paths import PACKAGE

__path__ = [str(PACKAGE.parent / "convert")]
