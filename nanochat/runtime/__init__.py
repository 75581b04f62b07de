"""Process runtime: device, precision, threads, distributed set-up, signals."""
