"""``pcc-server audit``: runs the node's guarantees against the machine it is installed on (node design 2, 3.13).

Each check says what is wanted, what was found and what follows where it does not hold. A detector first shows that it
can fire; a check that could not be carried out is "not proven" and counts as red.
"""
