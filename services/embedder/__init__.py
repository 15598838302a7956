"""Embedder: turns each received study into searchable embeddings and a diagnosis by each task that takes it.

StudyReceived ─▶ survey ─▶ select frames ─▶ decode ─▶ encode ─▶ judge ─▶ upsert ─▶ archive ─▶ StudyDiagnosed

app.py             composition and process
handlers.py        from event to step and back
embed_study.py     the step
study_objects.py   the archived objects, verified, fetched once
survey.py          what the study holds, in spatial order
select_frames.py   which frames the index and the tasks use
encode.py          the chosen frames' features: decoded in worker processes (shared.pixels.pool)
batches.py         the model's thread, its batches filled from the studies under way
judge.py           a task's decision on them
compose_event.py   the event that says it
points.py          the study's points in the vector index
indexes.py         the collections that they go to
ports.py           what it needs from outside
diagnosed.py       the archived diagnoses that points carry
second_backbone.py another backbone beside the one that judges
reindex.py         every archived study by it: `similis reindex`
"""
