"""Query: similar cases over HTTP, and the light-box page.

    upload ─▶ decode ─▶ encode ─┐
    study, series, frame ───────┼─▶ query vector ─▶ index ─▶ neighbours ─▶ vote ─▶ JSON, page
    vector ─────────────────────┘
    archive ─▶ catalogue ─▶ studies, diagnoses, maps, frame pictures
    archive ◀─▶ labels that people give

Read `app -> http -> routes -> find_similar, catalogue, pictures -> ports`. Research use only.
"""
