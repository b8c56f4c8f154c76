"""
Prompt tables on the services of docker-compose.yaml: Celery, two workers, two triggerers, an object store.

``docker-compose.yaml`` is laid over the project's file, ``place`` is what tests act on, ``faults`` strike,
``search`` looks for the key in everything, ``dags`` holds a slow table and a probe.
"""
