"""The classes behind `celerylite.canvas`, one noun per file; import them from there."""
