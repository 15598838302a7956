// What a saliency map may be said to show.

// First what warns, empty if nothing does; then what the map is; then how it was checked.
export function mapWords(map) {
  const warnings = [];
  const words = [];
  if (map.reliability === "not-reliable") warnings.push(`NOT RELIABLE, drawn pale: ${map.reliability_reason}.`);
  if (map.requested) warnings.push("ON REQUEST, not the model's decision.");
  words.push(`${map.method} for “${map.target_label}”: ${map.method === "rollout" ? "the brighter, the more attention went there, whatever the class" : "the brighter, the more its probability rests on this place"}. It shows what moved the model, not where disease is.`);
  if (map.reliability === "unknown") words.push("Not compared with random weights.");
  const f = map.faithfulness;
  const checked = f ? `Checked by showing only the bright places: ${f.insertion_auc.toFixed(2)} (random places ${f.random_insertion_auc.toFixed(2)}, more is better), and by hiding them: ${f.deletion_auc.toFixed(2)} (random places ${f.random_deletion_auc.toFixed(2)}, less is better).` : "";
  return [warnings.join(" "), words.join(" "), checked];
}
