"""What `celerylite run` puts on the path of the program it starts."""
