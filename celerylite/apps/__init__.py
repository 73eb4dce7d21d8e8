"""The worker and beat as programs: banner, signals of the operating system, process id file."""
