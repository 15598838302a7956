"""The query service's audit log: who looked at which study.

    request ─▶ Audited ─▶ … routes ─▶ trail: studies that were asked for or given
                  └▶ AuditLog ─▶ Recorder (shared.audit)

`actions` says what each route does to a study; a request is recorded when its answer begins.
"""
