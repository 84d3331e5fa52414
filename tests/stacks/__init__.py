"""One application in each of four frameworks, for `test_wsgi_stacks.py`: all of them answer alike.

- `/echo`, `/echo/<rest>`, any method: what the framework makes of the request, as JSON
- POST `/form`: the fields and files of a form; POST `/json`: the document itself, 201; PUT, POST `/raw`: size and
  digest of the body, read in pieces; POST `/input`: the same of `wsgi.input` itself
- POST `/visits`: counts in a session, and sets two more cookies; `/only-get` has no other method
- `/redirect`: 302 to `/echo`; `/moved`: 308 to `/raw`; `/status/<code>`; `/odd`: 599; `/broken` raises
- `/stream/<name>`, `/endless/<name>`, `/events/<name>`: see `parts.Stream`
- `/static/<file>`, and `/file/<file>` where the framework has another way
"""
