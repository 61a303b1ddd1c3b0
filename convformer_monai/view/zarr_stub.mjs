// Stands in for zarrita while NiiVue is bundled: pages hold NIfTI only, and zarr's codecs are half of the bundle.
const absent = () => {
  throw new Error("zarr is not part of this bundle");
};
export const root = absent;
export const open = absent;
export const get = absent;
export const slice = absent;
export const FetchStore = absent;
