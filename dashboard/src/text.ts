// Makes text of other people harmless: the twin of host/model/src/text.rs.
//
// A character that hides, or turns the direction of writing, would let the starter of an instance
// decide what an approver reads. Text is made harmless where Preact makes elements, so that no view
// can forget it.
import { Fragment, options, type VNode } from "preact";

// Control characters except tab and line feed, characters that turn the direction or take no room,
// and joiners after ASCII or at the beginning.
const HARMFUL =
  /[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]|(?<![^\0-\x7f])[\u200c\u200d]/gu;

/** The text with harmful characters as escapes, such as `\u{202e}`. Tabs and line breaks stay. */
export function harmless(text: string): string {
  return text.replace(
    HARMFUL,
    (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

const shown = (value: unknown): unknown =>
  typeof value === "string" ? harmless(value) : Array.isArray(value) ? value.map(shown) : value;

/** Attributes that are shown or read aloud. */
const READ = ["title", "aria-label", "aria-description", "alt", "placeholder"];

/** Makes the text of all elements harmless from now on. */
export function showTextHarmlessly(): void {
  const before = options.vnode;
  options.vnode = (vnode: VNode) => {
    if (typeof vnode.type === "string" || vnode.type === Fragment) {
      const props = vnode.props as Record<string, unknown>;
      if (props.children !== undefined) props.children = shown(props.children);
      for (const name of READ)
        if (typeof props[name] === "string") props[name] = shown(props[name]);
    }
    before?.(vnode);
  };
}
