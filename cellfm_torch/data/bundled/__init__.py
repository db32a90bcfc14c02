"""Real cells that travel with the package, and the script that made the file."""
