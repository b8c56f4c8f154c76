"""
Apache Airflow provider for MusicAPI.

A map of the package; importing it executes nothing. Arrows point one way, from the top to the bottom::

    exceptions  models  bodies  costs  verdict  schedule  settings   pure: no Airflow, no I/O
    xcoms  pages                                XCom keys; addresses on the API server
    answers                                     HTTP answers -> results and errors, the only place
    client  async_client                        requests, aiohttp
    submission  waiting  poller  pace           buy without paying twice; look until done, alone or together
    files  records                              small files in object storage; what is bought and stored
    prompt_table/  storage/                     a table's rows worked off; tracks fetched, checked and kept
    connection  hooks.musicapi                  Airflow connection -> client
    control_flow  worker_free  retry_policy     errors and waiting -> Airflow's control flow
    webhooks/                                   the API calls when a song is done: expect, verify, wake
    operators/  sensors/  triggers/  links      thin edges
    ui/                                         the tracks page: an Airflow plugin on the API server
    get_provider_info                           what Airflow's provider manager reads
"""
