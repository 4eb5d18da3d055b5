"""What the subcommands of `passby` do, one file each: its flags and its work."""
