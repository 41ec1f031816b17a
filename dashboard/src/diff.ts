// The difference of two texts by lines, as the shortest list of removed and added lines (Myers).

export interface DiffLine {
  kind: "same" | "removed" | "added";
  text: string;
}

/** Most changes that are looked for. Texts that differ in more are shown one after the other. */
const CHANGES_MAX = 1_500;

export function diffLines(before: string, after: string): DiffLine[] {
  const [old, now] = [before.split("\n"), after.split("\n")];
  let begin = 0;
  while (begin < old.length && begin < now.length && old[begin] === now[begin]) begin += 1;
  let end = 0;
  while (
    end < old.length - begin &&
    end < now.length - begin &&
    old[old.length - 1 - end] === now[now.length - 1 - end]
  ) {
    end += 1;
  }
  const same = (text: string): DiffLine => ({ kind: "same", text });
  return [
    ...old.slice(0, begin).map(same),
    ...middle(old.slice(begin, old.length - end), now.slice(begin, now.length - end)),
    ...old.slice(old.length - end).map(same),
  ];
}

function middle(old: string[], now: string[]): DiffLine[] {
  const paths = search(old, now);
  if (paths === null) {
    return [
      ...old.map((text): DiffLine => ({ kind: "removed", text })),
      ...now.map((text): DiffLine => ({ kind: "added", text })),
    ];
  }
  // Back from the end: each step is a removed or an added line, before the equal lines after it.
  const lines: DiffLine[] = [];
  let [x, y] = [old.length, now.length];
  for (let changes = paths.length - 1; changes >= 0; changes -= 1) {
    const reached = paths[changes] as Map<number, number>;
    const diagonal = x - y;
    const down = isDown(reached, diagonal, changes);
    const from = down ? diagonal + 1 : diagonal - 1;
    const startX = changes === 0 ? 0 : (reached.get(from) ?? 0);
    const startY = changes === 0 ? 0 : startX - from;
    while (x > startX && y > startY && old[x - 1] === now[y - 1]) {
      x -= 1;
      y -= 1;
      lines.push({ kind: "same", text: old[x] ?? "" });
    }
    if (changes === 0) break;
    if (down) {
      y -= 1;
      lines.push({ kind: "added", text: now[y] ?? "" });
    } else {
      x -= 1;
      lines.push({ kind: "removed", text: old[x] ?? "" });
    }
  }
  return lines.reverse();
}

const isDown = (reached: Map<number, number>, diagonal: number, changes: number): boolean =>
  diagonal === -changes ||
  (diagonal !== changes && (reached.get(diagonal - 1) ?? -1) < (reached.get(diagonal + 1) ?? -1));

/** For each number of changes, the furthest old lines before it; null with too many changes. */
function search(old: string[], now: string[]): Map<number, number>[] | null {
  const paths: Map<number, number>[] = [];
  let reached = new Map<number, number>([[1, 0]]);
  for (let changes = 0; changes <= Math.min(CHANGES_MAX, old.length + now.length); changes += 1) {
    paths.push(reached);
    const next = new Map(reached);
    for (let diagonal = -changes; diagonal <= changes; diagonal += 2) {
      let x = isDown(next, diagonal, changes)
        ? (next.get(diagonal + 1) ?? 0)
        : (next.get(diagonal - 1) ?? 0) + 1;
      while (x < old.length && x - diagonal < now.length && old[x] === now[x - diagonal]) x += 1;
      next.set(diagonal, x);
      if (x >= old.length && x - diagonal >= now.length) return paths;
    }
    reached = next;
  }
  return null;
}
