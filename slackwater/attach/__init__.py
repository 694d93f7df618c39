"""A volume as a mounted file system on this machine, for applications that want a path."""
