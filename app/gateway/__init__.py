"""The gateway between a PACS and the service: films in by C-STORE or STOW-RS, results out, nothing lost and nothing doubled.

A process of its own (`cxr gateway`), which talks to the service over HTTP only. The way of a film:

    receive   durable and sealed before it is acknowledged                                  `store.py`
    select    once its study has been quiet for a while, by rules that are data             `study.py`, `select.py`
    judge     `POST /reports` of the service; results and outbox rows in one transaction    `judge.py`
    deliver   one worker a destination, at least once with ids that never change            `outbox.py`, `deliver_*.py`
"""
