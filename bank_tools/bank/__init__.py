"""Good images to a bank file."""
