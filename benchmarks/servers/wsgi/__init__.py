"""The WSGI servers' programs, one a contender; each serves the application that its argument names."""
