"""What tests of applications use: an app in memory, an embedded worker, helpers to wait with."""
