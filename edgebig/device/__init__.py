"""What happens on the device: what machine it is, whether an engine runs there, and building the one that does."""
