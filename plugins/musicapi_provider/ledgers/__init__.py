"""
Where Airflow's tasks keep what they have bought: which ledger is used, and Airflow's own stores for it.
"""
