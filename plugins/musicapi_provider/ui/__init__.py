"""
The tracks page: an Airflow plugin, what it serves on the API server, and to whom.

``plugin`` is what Airflow loads, ``app`` the routes, ``tracks_page.js`` the page in the browser with
``lost_answers.js``, its other view, and ``parts.js``. ``access`` says who may read what, ``library`` which
tracks there are, ``track_list`` which are shown, ``stored_files`` and ``responses`` hand out files,
``task_instances`` what a task has left. ``lost_answers`` lets people decide. ``kept_file_systems`` makes
Airflow ask for a connection again, ``port_zero`` mends its Test button.
"""
