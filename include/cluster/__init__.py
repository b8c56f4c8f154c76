"""
``make cluster``: docker-compose.yaml without Docker, each service a process of this machine.

From the top to the bottom: ``interpolation`` and ``compose`` read the file, ``values`` are what it asks the
environment for, ``names`` let services find each other, ``programs`` stand in for images, ``health`` asks how
they are, ``cluster`` runs them.
"""
