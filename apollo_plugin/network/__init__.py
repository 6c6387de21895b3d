"""The network: samples in, restored samples out. It knows no file, no Hub and no progress bar."""
