"""How much memory a device has, what a computation takes of it, and how to make it take less."""
