"""Start a server: read its flags and its configuration file, and run it until it is asked to stop."""
