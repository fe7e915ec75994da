"""What is read of files that strangers made, before anything trusts them. Nothing here reaches torch."""
