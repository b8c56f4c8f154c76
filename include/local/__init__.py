"""
Run this project on one machine: what ``make demo`` and ``make up`` start.

* ``get_uv.py``    finds or installs uv inside the project (standard library only, runs before anything else)
* ``stack.py``     simulator and Airflow's processes on free loopback ports, started and ended together
* ``airflow_api.py``  Airflow's public REST API, as far as needed here
* ``demo.py``      the prompt-table DAG, for real, from the terminal
* ``up.py``        Airflow with its UI
"""
