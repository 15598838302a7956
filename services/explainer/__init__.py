"""Explainer: shows which part of a frame made a diagnosis.

StudyDiagnosed ─▶ policy ─▶ load evidence frames ─▶ ViT-CX ─▶ map, overlay, record ─▶ StudyExplained
"""
