"""One file per task: its loss, its metrics, its LightningModule, which is given its network."""
