"""The listener beside other receivers: objects a second, CPU, memory, all measured in one run.

    objects ─▶ senders ─▶ receivers ─▶ measure ─▶ results ─▶ report, plot
               (storescu)  (each a real process, in turn)

Receivers take turns within a block, so what disturbs the machine meets all of them; ratios are
taken within a block and only then summed up. Every run starts its receiver afresh on an empty
folder: the same objects can be sent again without being duplicates, the disk never holds more than
one run, and no run is slowed by what an earlier one left behind.
"""
