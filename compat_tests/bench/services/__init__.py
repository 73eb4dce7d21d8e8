"""What contenders stand on: a Redis server of their own, a database of their own on a server that runs."""
