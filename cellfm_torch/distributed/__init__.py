"""Training on several processes: sharded weights, their checkpoints, and runs that go on with other processes."""
