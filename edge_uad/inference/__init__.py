"""From a picture to a verdict: preprocess, backbone, masking, bank, scoring."""
