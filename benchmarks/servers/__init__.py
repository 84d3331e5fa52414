"""The server programs, one a contender; each serves every scenario by its path."""
