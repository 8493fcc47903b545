"""Whether a running Redis has what the library needs.

    for finding in examine("redis+sentinel://…", instance="shop"):
        print(finding)

`facts` asks; `checks` judges the answers, and needs no server; `examine` puts both together. On the server the doctor
changes only keys of its own, which it removes. A finding holds no value, no password and no other key's name.
"""

from aikcache.doctor.checks import Finding, Severity
from aikcache.doctor.examination import examine

__all__ = ["Finding", "Severity", "examine"]
