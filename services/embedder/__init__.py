"""Embedder: turns each received study into searchable embeddings and a diagnosis by each task that takes it.

StudyReceived ─▶ survey ─▶ select frames ─▶ decode ─▶ encode ─▶ judge ─▶ upsert ─▶ archive ─▶ StudyDiagnosed

app.py          composition and process
handlers.py     from event to step and back
embed_study.py  the step
survey.py       what the study holds, verified, in spatial order; which frames are used
encode.py       the chosen frames' features
judge.py        a task's decision on them
ports.py        what it needs from outside
"""
