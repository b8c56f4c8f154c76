"""
Apache Airflow provider for MusicAPI.

A map of the package; importing it executes nothing. Arrows point one way, from the top to the bottom::

    exceptions  models  bodies  costs  verdict  schedule  settings   pure: no Airflow, no I/O
    answers                                     HTTP answers -> results and errors, the only place
    client  async_client                        requests, aiohttp
    submission  waiting  poller                 buy without paying twice; look until done, alone or together
    prompt_table  storage  records  manifest    rows in, files and records out
    connection  hooks.musicapi                  Airflow connection -> client
    control_flow  worker_free  retry_policy     errors and waiting -> Airflow's control flow
    operators.musicapi  sensors.musicapi  triggers.musicapi  links     thin edges
    get_provider_info                           what Airflow's provider manager reads
"""
