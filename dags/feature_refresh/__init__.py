"""How the refresh DAGs are made from the project's definitions; `refresh.py` beside this package says when they run."""
