"""The client programs, one a contender; each asks for one URL over and over."""
