"""
Real Airflow processes, SIGKILL and a misbehaving API: no song is paid twice, no paid one is lost.

``plan`` says what happens to which try, ``gate`` makes it happen, ``dags/torture.py`` buys, ``records`` reads
what Airflow knows, ``judge`` compares that with what was booked, ``harness`` runs it all, ``report`` prints.
"""
