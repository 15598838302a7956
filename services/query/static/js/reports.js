// Reads validation reports; a part that is missing is null or empty, never an error.

const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const interval = (given) => (number(given) !== null ? { value: given, low: null, high: null }
  : number(given?.value) !== null ? { value: given.value, low: number(given.low), high: number(given.high) } : null);
const entries = (given) => (Array.isArray(given) ? given : given && typeof given === "object" ? Object.entries(given).map(([label, value]) => (Array.isArray(value) ? { label, points: value } : { label, ...value })) : []);

export const isPhantom = (report) => /phantom/i.test(JSON.stringify([report.source, report.notice, report.retrieval?.phantom ? "phantom" : ""]));

export function words(report) {
  const { source } = report;
  if (typeof source === "string") return source;
  return [source?.title, source?.description, source?.split, report.cases ? `${report.cases} cases` : null].filter(Boolean).join(" · ");
}

export function command(report, part) {
  return report.commands?.[part] ?? report[`${part}_command`] ?? (part === "retrieval" ? report.retrieval_missing : null) ?? report.command ?? null;
}

export function confusion(report) {
  const given = report.confusion;
  const counts = Array.isArray(given) ? given : given?.counts ?? given?.matrix ?? given?.rows;
  const labels = given?.labels ?? report.labels;
  return Array.isArray(counts) && Array.isArray(counts[0]) && Array.isArray(labels) ? { labels, counts } : null;
}

export function roc(report) {
  return entries(report.roc?.curves ?? report.roc).map((curve) => ({
    name: curve.label ?? curve.name ?? "all",
    auroc: interval(curve.auroc ?? curve.area ?? curve.auc)?.value ?? null,
    points: (curve.points ?? (curve.false_positive_rate ?? curve.fpr ?? []).map((at, place) => [at, (curve.true_positive_rate ?? curve.tpr)[place]]))
      .map((point) => (Array.isArray(point) ? point : [point.false_positive_rate ?? point.fpr, point.true_positive_rate ?? point.tpr])),
  })).filter((curve) => curve.points.length > 1 && curve.points.every((point) => point.every((value) => number(value) !== null)));
}

export function calibration(report) {
  return entries(report.calibration?.bins ?? report.calibration).map((bin) => ({
    said: number(bin.confidence ?? bin.stated ?? bin.predicted ?? bin.said),
    right: number(bin.accuracy ?? bin.right ?? bin.observed),
    count: number(bin.count ?? bin.cases ?? bin.studies ?? bin.n),
    low: number(bin.low),
    high: number(bin.high),
  })).filter((bin) => bin.said !== null && bin.right !== null);
}

const MEASURES = /^(p|precision|map|mmv)[_@]?(at_)?\d+/i;

// Measures by space, whichever way they are nested: {precision: {1: {micro, macro}}} or flat {"P@1": …}.
export function retrieval(report) {
  return entries(report.retrieval?.spaces).map((one) => ({ space: one.space ?? one.name ?? one.label, measures: flat(one) })).filter((row) => Object.keys(row.measures).length);
}

function flat(given, name = "") {
  const found = {};
  for (const [key, value] of Object.entries(given)) {
    const full = name ? `${name} ${key}` : key;
    const one = interval(value);
    if (one && (MEASURES.test(full) || name)) found[pretty(full)] = one;
    else if (value && typeof value === "object" && !Array.isArray(value) && (name || MEASURES.test(key) || /^(p_at|precision|p@k?)/i.test(key))) Object.assign(found, flat(value, full));
  }
  return found;
}

const pretty = (name) => name.replace(/precision_at_|precision |p_at_|p_at |p@k /i, "P@").replace(/^p@/i, "P@").replace(/map_at_|map@/i, "mAP@").replace(/mmv_at_|mmv@/i, "MMV@").replaceAll("_", " ");
