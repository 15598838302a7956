// What a saliency map may be said to show.

export function mapWords(map) {
  const words = [];
  if (map.reliability === "not-reliable") words.push(`NOT RELIABLE, drawn pale: ${map.reliability_reason}.`);
  if (map.requested) words.push("ON REQUEST, not the model's decision.");
  words.push(`${map.method} for “${map.target_label}”: ${map.method === "rollout" ? "the brighter, the more attention went there, whatever the class" : "the brighter, the more its probability rests on this place"}. It shows what moved the model, not where disease is.`);
  const f = map.faithfulness;
  if (f) {
    words.push(`Insertion ${f.insertion_auc.toFixed(2)} (random ${f.random_insertion_auc.toFixed(2)}, more is better), deletion ${f.deletion_auc.toFixed(2)} (random ${f.random_deletion_auc.toFixed(2)}, less is better).`);
  }
  if (map.reliability === "unknown") words.push("Not compared with random weights.");
  return words.join(" ");
}
