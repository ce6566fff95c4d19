"""The demo: a real small model and real data from packages, made once on the user's own machine.

Downloads nothing: the packages come with the `demo` extra and constraints/demo-model.txt.
"""
