// Numbers for people, always with their unit. null is not known, and never shown as 0.

export const UNKNOWN = "–";

export const wait = (seconds) => {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 && seconds % 1 ? `${seconds.toFixed(2)} s` : `${Math.round(seconds)} s`;
};

export const count = (number) => (number === null || number === undefined ? UNKNOWN : compact(number));

const compact = (number) => {
  if (number < 10 && number % 1) return number.toFixed(1);
  return number < 10000 ? Math.round(number).toLocaleString("en") : `${(number / 1000).toFixed(number < 100000 ? 1 : 0)}k`;
};

export const span = (seconds) => {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.floor(whole / 60)} min`;
  return whole < 172800 ? `${Math.floor(whole / 3600)} h` : `${Math.floor(whole / 86400)} d`;
};

export const clock = (epoch, withSeconds = true) =>
  new Date(epoch * 1000).toLocaleTimeString("en-GB", withSeconds ? {} : { hour: "2-digit", minute: "2-digit" });

export const moment = (epoch) => new Date(epoch * 1000).toISOString();
