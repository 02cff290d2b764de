"""Routing: which route answers, and why. Pure: text, labels and readings in, a ``Decision`` out.

Nothing here opens a file or a socket, reads a clock or draws a random number.
"""
