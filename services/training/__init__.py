"""Training: heads for the tasks, on frozen features, and their measurement. Research use only.

    dataset ─▶ features ─▶ fit ─▶ card ─▶ versions ─▶ promote
       ▲                    measures        │
    phantoms                    ▲           ▼
                                └────── evaluation

`train_task` is the way through; `command_line` mounts it as `similis train`, `similis task` and `similis evaluate`.
"""
