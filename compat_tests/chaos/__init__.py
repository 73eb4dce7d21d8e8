"""Proof by trouble: processes that publish and run, others that kill them, and an account of every call."""
