"""
Apache Airflow provider for MusicAPI.

A map of the package; importing it executes nothing. Whoever stands higher may import what stands lower::

    get_provider_info  plugin     what Airflow loads
    ui  webhooks  cli             the tracks page; the API calls when a song is done; the command line
    operators  sensors  triggers  thin edges: Airflow's control flow
    forms  links                  trigger forms; buttons on a task, addresses on the API server, XCom keys
    hooks  retry_policy           an Airflow connection becomes a client
    prompt_table                  a table's rows worked off
    storage                       tracks fetched, checked and kept
    waiting                       poll until done, alone or together
    purchases                     buy without paying twice
    api                           settings, bodies, prices, clients, and what answers mean
    files  text  exceptions       below everything
"""
