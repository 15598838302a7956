"""Saliency maps: where in a frame lies what speaks for a class. Research use only.

methods ─▶ vit_cx (the paper) ─▶ causal_masks ─▶ upsampling
   │         └─▶ masked_queue (the forward passes of many images)
   └─▶ rollout, legrad ─▶ attention       rise
forwards, heads: what a backbone and a head answer; modes: how exactly; seeds: of the noise
"""
