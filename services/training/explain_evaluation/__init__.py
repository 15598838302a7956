"""How faithful a task's saliency maps are, on phantoms whose lesions are known to the pixel. Research use only."""
